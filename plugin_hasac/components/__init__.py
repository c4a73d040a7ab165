"""What the algorithm is made of besides networks."""
