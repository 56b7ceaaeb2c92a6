"""`python train.py loss=token_level clip.upper=1.28` runs an experiment; `python train.py --help` explains."""

from dapo_lightning.run.cli import main

if __name__ == "__main__":
    main()
