"""The console commands, one file each: options, messages, exit codes.

The work is done in the other folders; nothing else imports from here.
"""
