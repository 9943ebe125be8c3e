"""The Gradio app: the page, the API for programs, and what guards them. `main` starts it."""
