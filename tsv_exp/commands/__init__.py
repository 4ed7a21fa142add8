"""The console commands, one file each: options, messages, exit codes.

What a command does lives in the rooms below; nothing else imports from here.
"""
