"""Evaluation as in the paper (section 3.2): views of an image, their posteriors, and the workers that compute them."""
