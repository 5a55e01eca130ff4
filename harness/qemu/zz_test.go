package qemu
import ("testing";"os";"strings";"time";"context";"fmt"
"github.com/nestbed/nestbed/harness/machine")
func TestZZ(t *testing.T){
 m,err:=machine.Named(os.Getenv("M")); if err!=nil{t.Skip()}; m.Kernel=os.Getenv("K"); m.Initrd=os.Getenv("I"); m.Cmdline=strings.Fields(os.Getenv("C"))
 m.Channels=[]string{"nestbed.control","nestbed.ssh","nestbed.shell"}
 dir:=os.Getenv("DIR"); os.MkdirAll(dir,0755)
 t0:=time.Now()
 p,err:=Start(context.Background(),Config{Machine:m,Dir:dir}); if err!=nil{t.Fatal(err)}
 fmt.Println("started",time.Since(t0), p.PID())
 defer p.Close()
 ev:=p.QMP().Subscribe(t.Context())
 go func(){ for e:=range ev { fmt.Println(time.Since(t0),e.Event,e.Data)} }()
 wait:=func(s string, d time.Duration) bool { for time.Since(t0)<d { b,_:=os.ReadFile(dir+"/console.log"); if strings.Contains(string(b),s){return true}; select{case <-p.Done(): return false; case <-time.After(30*time.Millisecond):} }; return false }
 fmt.Println("ready", wait("qlab: READY",40*time.Second), time.Since(t0))
 if os.Getenv("EDU")!="" {
  d,_:=machine.DeviceNamed("edu"); t1:=time.Now()
  fmt.Println("plug",p.Plug(t.Context(),d,"edu1",1))
  fmt.Println("edu done", wait("edu DONE",60*time.Second), time.Since(t1))
  n,err:=Faults(dir); fmt.Println("faults",n,err)
 }
 if k:=os.Getenv("KEYS"); k!="" { for _,c:=range strings.Split(k,",") { fmt.Println("sysrq",c,p.SysRq(t.Context(),c)); time.Sleep(time.Second)} }
 if os.Getenv("NMI")!="" { fmt.Println("nmi",p.NMI(t.Context())) }
 if w:=os.Getenv("W"); w!="" { d,_:=time.ParseDuration(w); select{case <-p.Done(): case <-time.After(d):} }
 fmt.Printf("state %+v\n", p.ExitState())
 fmt.Println("close",p.Close(), p.Wait(), p.Stderr()); fmt.Printf("state %+v\n", p.ExitState())
}
