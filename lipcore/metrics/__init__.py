"""How detections are scored, each benchmark as its official tool does. Nothing here knows a detector."""
