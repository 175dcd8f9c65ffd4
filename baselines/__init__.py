"""Published systems and naive rows behind the harness's interface, one module per system."""
