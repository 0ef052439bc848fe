"""Nodes as their owners had them, their network aside: what greets, what is half written, who is at work."""

# A login shell that says something before every command, a file-creation mask and a locale of its owner's, and PAM
# behind sudo, which prints on stdout.
GREETINGS = r"""
set -e
sed -i '1i echo Welcome to the cache box\nprintf "no newline at the end"\numask 077' /home/ncadmin/.bashrc
echo LC_ALL=de_DE.UTF-8 >> /etc/environment
echo 'AcceptEnv *' > /etc/ssh/sshd_config.d/env.conf
printf 'We trust you have received\nthe usual lecture.\n' > /etc/lecture
echo 'session optional pam_echo.so file=/etc/lecture' >> /etc/pam.d/sudo
"""
