"""Start the app: `python app/app.py --help`. Its code is in `latent_ae/app/`."""

import sys

from latent_ae.app.main import main

if __name__ == "__main__":
    sys.exit(main())
