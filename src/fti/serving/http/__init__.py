"""What the service says and hears over HTTP."""
