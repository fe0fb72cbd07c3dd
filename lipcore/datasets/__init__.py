"""Images with faces: real benchmarks, and synthetic scenes made of real faces and photographs."""
