"""PSPNet: its data, its training, its scores and the command line."""
