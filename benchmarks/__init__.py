"""Speed, measured against peers and against what the machine could do. Nothing else imports this."""
