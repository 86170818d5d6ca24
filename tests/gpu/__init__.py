"""What only a card shows, for `make gpu`; the suite runs the same on the CPU. Needs neither Django nor pytest."""
