"""What runs the three pipelines one after another, and closes the loop; nothing else knows all of them."""
