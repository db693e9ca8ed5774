"""The parts that every transformer here is made of."""
