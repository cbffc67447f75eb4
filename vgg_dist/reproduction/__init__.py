"""The paper's runs (sections 3.1 and 4): which starts from which, what they cost, and training and evaluating them."""
