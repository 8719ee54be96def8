"""The student before its first step: gathered, solved in closed form, inherited."""
