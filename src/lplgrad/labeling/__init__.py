"""A person labels: the images of a query as a table, a page or Label Studio tasks, and the answers they return."""
