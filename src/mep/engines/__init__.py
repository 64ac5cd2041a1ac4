"""What runs tasks inside a user endpoint; this room runs programs."""
