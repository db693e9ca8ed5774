"""`python -m alitok`, the form that torchrun starts."""

from alitok.cli import main

if __name__ == "__main__":
    main()
