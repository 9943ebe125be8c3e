"""What programs use: typed endpoints, plain HTTP routes, tools of language models."""
