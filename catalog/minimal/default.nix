# A shell, and nothing else: the least that can be booted and looked at.
{
  name = "minimal";
  dev = true;
  resources.memory = 128;
}
