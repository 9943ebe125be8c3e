"""What a request must pass before Gradio or a route sees it: origin, account, size, place, content."""
