"""The command line of xlt: `python run.py method=seq_bn_inv lang=mt task=sib200`."""

from xlt.cli import main

if __name__ == "__main__":
    main()
