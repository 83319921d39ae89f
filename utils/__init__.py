"""Pure and jittable functions and types, which import no other package of the project."""
