"""The tests. None depends on how fast the machine is: they wait for conditions, and give up only after minutes."""

PATIENCE = 600  # seconds until a test gives up on a page, a server or a process
