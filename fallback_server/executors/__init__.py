"""One executor a platform: what loads a version's files and runs them. Imports no backend until one is loaded."""
