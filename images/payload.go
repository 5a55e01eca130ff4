package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// The folder and not its files: a clean checkout has only .gitkeep there and must still build and vet.
//
//go:embed all:payload
var payload embed.FS

// The payload's files and the packages that they are built from.
const (
	InitName  = "init"
	AgentName = "agent"

	initPackage  = "./images/init"
	agentPackage = "./guestagent"
)

// ErrNoPayload says that this program was built without the guest's programs in it.
var ErrNoPayload = errors.New("the guest's programs are not built in; run make build")

// Payload gives the embedded init and agent.
func Payload() (init, agent []byte, err error) { return ReadPayload(payload, "payload") }

// ReadPayload gives the init and the agent that BuildPayload left in dir of fsys.
func ReadPayload(fsys fs.FS, dir string) (init, agent []byte, err error) {
	for name, to := range map[string]*[]byte{InitName: &init, AgentName: &agent} {
		data, err := fs.ReadFile(fsys, filepath.ToSlash(filepath.Join(dir, name)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
			return nil, nil, fmt.Errorf("%s: %w", name, ErrNoPayload)
		}
		if err != nil {
			return nil, nil, err
		}
		*to = data
	}
	return init, agent, nil
}

// BuildPayload builds init and agent from the module in moduleDir into the folder out, which exists.
func BuildPayload(ctx context.Context, moduleDir, out string) error {
	if err := BuildProgram(ctx, moduleDir, initPackage, filepath.Join(out, InitName)); err != nil {
		return err
	}
	return BuildProgram(ctx, moduleDir, agentPackage, filepath.Join(out, AgentName))
}

// BuildProgram builds one package of the module in moduleDir as a program for the guest: static, small,
// and the same bytes for the same sources, whatever the commit and the folder (a changed byte voids every
// snapshot). The file appears whole or not at all.
func BuildProgram(ctx context.Context, moduleDir, pkg, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".build-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, filepath.Base(out))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", built, pkg)
	cmd.Dir = moduleDir
	// GOFLAGS could bring -race or -cover, which a guest without a C library cannot run.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, bytes.TrimSpace(output))
	}
	return os.Rename(built, out)
}

// Hash names a program or an image by its content: sha256, in hexadecimal.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
