"""Log lines of libraries: limited, and written where nobody waits."""
