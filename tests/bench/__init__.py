"""What Daybreak does on this machine, beside its peers and the physical limits: see README.md."""
