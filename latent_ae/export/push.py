"""A folder to the Hugging Face hub, with its card."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from latent_ae.errors import one_line
from latent_ae.export.proof import ExportError
from latent_ae.export.source import CARD
from latent_ae.io.model_place import result_in

_LEFT_OUT = [".*", "**/.*"]
_UNAUTHORIZED = 401


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder, or the model of a run's, creating the repository if it does not exist. Returns its URL.

    Raises ExportError for a folder without a card, an invalid name, a missing token or network, and with `private` for
    an existing public repository.
    """
    if not folder.is_dir():
        raise ExportError(f"the folder {folder} does not exist")
    folder = result_in(folder, "model")
    if not (folder / CARD).is_file():
        raise ExportError(f"{folder} has no {CARD}, the model card that is published with it: add one")
    api = HfApi()
    try:
        # A name without an owner becomes the user's own; an upload takes the whole name alone.
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if private and not api.repo_info(repo).private:
            raise ExportError(
                f"{api.endpoint}/{repo} already exists and is public; --private only applies to new repositories: "
                "choose another name, or make it private in its settings"
            )
        api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=_LEFT_OUT, commit_message="latent-ae push")
    except ExportError:
        raise
    except HFValidationError as error:
        raise ExportError(
            f"{repo!r} is not a repository name, expected NAME or OWNER/NAME: {one_line(error)}"
        ) from error
    except LocalTokenNotFoundError as error:
        raise ExportError("no token for the hub: log in with `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        if error.response.status_code == _UNAUTHORIZED:
            raise ExportError("the hub refused the token, or there is none: log in with `hf auth login`") from error
        raise ExportError(f"the hub refused {repo}: {one_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise ExportError("HF_HUB_OFFLINE is set: unset it to reach the hub") from error
    except ValueError as error:
        raise ExportError(f"{folder} cannot be published: {one_line(error)}") from error
    except Exception as error:  # the hub's library has one HTTP client or another, each with errors of its own
        raise ExportError(f"the hub {api.endpoint} cannot be reached: {one_line(error)}") from error
    return f"{api.endpoint}/{repo}"
