"""Shows who feels what, live: python live.py --source 0.

docs/live.md has the Raspberry Pi, camera permissions and outputs.
"""

from ferjax.runtime import live

if __name__ == "__main__":
    live.run()
