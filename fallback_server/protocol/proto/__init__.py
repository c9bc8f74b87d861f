"""Generated from the `.proto` files beside it by `make proto`; committed, so that an install needs no compiler."""
