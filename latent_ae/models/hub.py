"""Whether a repository of the Hugging Face hub can be had, asked once and not for long.

diffusers asks for each file by itself, and tries five times: without a network, that takes two minutes.
"""

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from latent_ae.errors import ModelError, one_line

TIMEOUT_SECONDS = 10


def downloaded(name: str) -> Path | None:
    """The folder of a repository in the hub's cache where the hub cannot be reached; None where it can.

    Raises ModelError for a repository that is neither on the hub nor in the cache.
    """
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT_SECONDS)
    except EntryNotFoundError:
        return None  # a pipeline has none
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no repository {name}, or it is private: log in with `hf auth login`") from error
    except HfHubHTTPError as error:
        raise ModelError(f"the hub refused {name}: {one_line(error)}") from error
    except Exception as error:  # the hub's library has one HTTP client or another, each with errors of its own
        offline = isinstance(error, OfflineModeIsEnabled)
        reason = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception as missing:
            raise ModelError(f"{reason}, and the cache has no {name}") from missing
    return None
