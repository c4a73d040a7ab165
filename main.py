"""``python main.py --config=ALG --env-config=ENV [with key=value …]`` is ``hasac run``."""

from plugin_hasac.cli.main import main

if __name__ == "__main__":  # hosts start env workers that import this file again
    main()
