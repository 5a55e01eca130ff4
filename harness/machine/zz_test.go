package machine
import ("testing";"os";"strings")
func TestZZ(t *testing.T){ m,_:=Named(os.Getenv("M")); m.Kernel=os.Getenv("K"); m.Initrd=os.Getenv("I"); m.Cmdline=strings.Fields(os.Getenv("C"))
 os.WriteFile(os.Getenv("OUT"), []byte(m.Script("qemu-system-x86_64")),0755)}
