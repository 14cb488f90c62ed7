"""From a request to a resource, and back."""
