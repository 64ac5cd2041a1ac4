"""The client: functions, submits, futures, login. What people use is at the top: `from mep import Executor`."""
