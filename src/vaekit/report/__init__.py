"""From trained runs to a page that compares them."""
