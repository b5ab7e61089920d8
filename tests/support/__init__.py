"""What the tests share. Children import this package, so it stays light."""
