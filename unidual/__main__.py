"""`python -m unidual`, also under `accelerate launch -m` and `torchrun -m`."""

from unidual.app import main

if __name__ == "__main__":
    main()
