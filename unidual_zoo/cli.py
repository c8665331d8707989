"""`python -m unidual_zoo.cli`, by which earlier versions were started on many processes: the same as `-m unidual`."""

from unidual.app import main

if __name__ == "__main__":
    main()
