"""``python -m plugin_hasac`` is the command ``hasac``."""

from plugin_hasac.cli.main import main

if __name__ == "__main__":
    main()
