"""Sequential correction (PURE, 3.3): rows that a budget left alone are screened, compared and settled."""
