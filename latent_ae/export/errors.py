"""What can be wrong with an export."""

from latent_ae.errors import UserError


class ExportError(UserError):
    """A model that cannot be exported as asked; the message is one line."""


class ProofFailed(Exception):  # noqa: N818 - a fact about a file, not a fault of the program
    """What was written does not do in its consumer what the model does; the message is one line.

    Nobody who runs the program can mend it by other options, so it is no UserError. Nothing is left of the export.
    """
