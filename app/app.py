"""Start the app: `python app/app.py --help`. It is `latent-ae serve`."""

import sys

from latent_ae.cli.serve import main

if __name__ == "__main__":
    sys.exit(main())
