"""Code for a child process in which some packages cannot be imported."""

#: put before a script: the named modules look as if they were not installed
BLOCK = """
import importlib.machinery, importlib.metadata, sys
class Blocker(importlib.machinery.PathFinder):
    names = set()
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.names:
            return None
        return super().find_spec(name, path, target)
sys.meta_path[:] = [f for f in sys.meta_path if "distutils" not in str(f).lower()]
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Blocker
"""
