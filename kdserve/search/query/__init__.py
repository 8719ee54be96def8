"""From a query to what a reader sees: ranking and snippets."""
