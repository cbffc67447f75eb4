"""Evaluation as the paper does it (section 3.2): views of an image, posteriors, and who computes them."""
