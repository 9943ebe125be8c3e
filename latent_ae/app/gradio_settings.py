"""Gradio's settings by environment variables: ours alone, made before gradio is imported."""

import os
from pathlib import Path


def set_environment(temporary: Path) -> None:
    """Take every GRADIO_ variable out of the environment and put in what this app needs.

    A variable somebody has set could open folders (GRADIO_ALLOWED_PATHS), share the app (GRADIO_SHARE) or start a
    code editor (GRADIO_VIBE_MODE). `temporary` is for uploads and results.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Otherwise every request makes a data frame of the last 10,000 requests, which nothing here reads.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**12)
