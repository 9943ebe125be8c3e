"""Start the app: `python app/app.py --help`. It is `latent-ae serve`."""

import sys

from latent_ae.cli.serve import main
from latent_ae.process import own_process

if __name__ == "__main__":
    own_process()
    sys.exit(main())
