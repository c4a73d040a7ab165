"""``python -m plugin_hasac`` is the command ``hasac``."""

from plugin_hasac.cli.main import main

if __name__ == "__main__":
    __spec__ = None  # with one, processes that hosts spawn skip this module, and with it what it restores for them
    main()
