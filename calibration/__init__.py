"""INT8: activation ranges from real images, one table, explicit Q/DQ graphs."""
