"""Every preset on photographs."""
